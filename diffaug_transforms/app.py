"""`diffaug app`: a page to play with, served by Gradio (extra ``app``). It needs no connection and sends nothing out.

app_picture.py reads pictures, app_models.py computes, app_page.py is the page; this file serves it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import ipaddress
import os
import socket
import tempfile
import threading
from typing import Any

DEFAULT_CLASSIFIERS = ("cifar10-diffaug", "cifar10-baseline")
EXAMPLES = (
    "diffaug app",
    "diffaug app --classifier runs/a --classifier cifar10-baseline --network google/ddpm-cifar10-32 --port 8000",
)


def app(args: argparse.Namespace) -> int:
    """Serve a page to play with in the browser: diffuse, denoise and classify a picture."""
    check_gradio()
    port = find_port(args.host, args.port)
    print("Loading", flush=True)
    import torch

    from .app_models import Models

    models = Models(
        args.classifier or DEFAULT_CLASSIFIERS,
        args.network,
        any_network=is_loopback(args.host),
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    with tempfile.TemporaryDirectory(prefix="diffaug_app_", ignore_cleanup_errors=True) as folder:
        # Gradio reads both when it is imported. Its own folder for uploads is one for all users of the machine.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        return serve(models, args.host, port)


def check_gradio() -> None:
    """ImportError before anything is loaded; Gradio itself takes seconds to import."""
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('diffaug app needs Gradio: pip install "diffaug-transforms[app]"')


def serve(models: Any, host: str, port: int) -> int:
    """Serve the page until Ctrl-C."""
    import gradio as gr

    from .app_html import CSS
    from .app_page import build_page
    from .app_picture import MAX_BYTES

    page = build_page(models)
    try:
        # All of Gradio's ways to reach out are named, because its environment variables would switch them on.
        _, address, _ = page.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            max_file_size=MAX_BYTES,
            theme=gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            css=CSS,
            footer_links=[],
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
        )
        print(f"The page is at {address} - Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    finally:
        page.close(verbose=False)
    return 0


def find_port(host: str, port: int) -> int:
    """The port, or a free one for 0. OSError where it is taken, or the host is none of this machine's addresses.

    Gradio would look for it last, after everything is loaded.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be in 0...65535. Got {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}, port {port}: {error.strerror}. "
            "Choose another with --port, or --port 0 for any free one"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host; then the page may be given paths of this machine."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def add_app_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="default: %(default)s, this machine only; with others, visitors choose among the named networks only",
    )
    parser.add_argument("--port", type=int, default=7860, help="0: any free one; default: %(default)s")
    parser.add_argument(
        "--classifier",
        action="append",
        metavar="FOLDER",
        help="written by examples/train_classifier.py, or an embedded name; may be repeated, the first is shown first; "
        f"default: {' and '.join(DEFAULT_CLASSIFIERS)}",
    )
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")

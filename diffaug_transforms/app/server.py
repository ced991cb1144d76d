"""Serve the page until Ctrl-C."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import socket
import tempfile
import threading
from collections.abc import Sequence

import torch

from .models import Models


def serve(
    classifiers: Sequence[str], network: str, *, host: str = "127.0.0.1", port: int = 7860, device: torch.device | str
) -> None:
    """Load the networks and serve the page until Ctrl-C.

    Visitors may type paths and Hub repositories only if nobody but this machine reaches ``host``, an address of this
    machine. Port 0 means any free port. The other arguments are those of ``Models``.

    Raises:
        ImportError: Gradio is missing. ValueError, OSError: the port or the host cannot be used, or as ``Models``.
    """
    # Gradio takes seconds to import, and it would look for the port last, after everything is loaded.
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('diffaug app needs Gradio: pip install "diffaug-transforms[app]"')
    port = find_port(host, port)
    print("Loading", flush=True)
    models = Models(classifiers, network, any_network=is_loopback(host), device=device)
    with tempfile.TemporaryDirectory(prefix="diffaug_app_", ignore_cleanup_errors=True) as folder:
        # Gradio reads both when it is imported. By default, all users of the machine share its folder for uploads.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        _serve_page(models, host, port)


def _serve_page(models: Models, host: str, port: int) -> None:
    import gradio as gr

    from .page import build_page
    from .pictures import MAX_BYTES
    from .style import CSS

    page = build_page(models)
    try:
        # Everything with which Gradio could reach out is named, because its environment variables could switch it on.
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


def find_port(host: str, port: int) -> int:
    """The port, or a free one for 0. OSError if it is taken, or if the host is no address of this machine."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port must be in 0...65535. Got {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        advice = "Choose another with --port, or --port 0 for any free one"
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror}. {advice}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"

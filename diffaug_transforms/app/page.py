"""The components of the page, and which one fills which.

    picture, corruption, severity,                 +--> diffused, denoised <--slider-- t
    network, classifier, seed      --> Setting --> |
                                                   +--> views, probabilities

Each output is filled by one function. If a user calls a function while it runs, only the newest call waits, so an older
answer never overwrites a newer one. The Setting is all that is kept for a user.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from ..images import ASSETS
from ..robustness import CORRUPTIONS
from ..score import list_score_networks
from . import compute
from .compute import MAX_SEED, NO_CORRUPTION, Models, Setting
from .markup import INTRODUCTION, note, problem, row_of_views
from .pictures import MAX_BYTES, enlarge

#: Of each of the page's functions, four calls run at once, for all users together. The others wait.
NEWEST: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 4}
#: Errors that the page shows as one sentence.
ERRORS = (OSError, ValueError, TypeError, RuntimeError, ImportError)
SAMPLES = sorted(str(path) for path in (ASSETS / "samples").glob("*.png"))
FIRST_SAMPLE, FIRST_TIMESTEP = str(ASSETS / "samples" / "horse.png"), 150


def build_page(models: Models) -> gr.Blocks:
    """The page. It is not served yet."""
    with gr.Blocks(title="DiffAug", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(INTRODUCTION)
        setting = gr.State()
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                choices = add_choices(models)
            with gr.Column(scale=3, min_width=640):
                picture_note = gr.HTML(elem_id="picture-note", padding=False)
                with gr.Row():
                    shown = add_image("Picture, as the classifier sees it", "shown")
                    diffused = add_image("Diffused to time t", "diffused")
                    denoised = add_image("Denoised in one step", "denoised")
                timestep = gr.Slider(0, 999, FIRST_TIMESTEP, step=1, label="Timestep t", elem_id="timestep", buttons=[])
                time_note = gr.HTML(elem_id="time-note", padding=False)
                answer = add_answer()
        # Gradio's preprocessing would decode pictures of any size. `prepare` checks every choice itself.
        choosing = [page.load, *(choice.change for choice in choices)]
        filled = [setting, shown, timestep, picture_note]
        options = NEWEST | {"api_name": "prepare", "preprocess": False}
        gr.on(choosing, partial(show_setting, models), choices, filled, **options)
        moving = [timestep.input, setting.change]
        filled = [diffused, denoised, time_note]
        options = NEWEST | {"api_name": "denoise", "show_progress": "hidden"}
        gr.on(moving, partial(show_denoised, models), [setting, timestep], filled, **options)
        options = NEWEST | {"api_name": "classify", "show_progress": "minimal"}
        setting.change(partial(show_answer, models), setting, answer, **options)
    return page.queue(max_size=200)


def add_choices(models: Models) -> list[Any]:
    """The components in which the user chooses, in the order of ``show_setting``'s arguments."""
    picture = gr.Image(
        FIRST_SAMPLE,
        label="Picture",
        type="filepath",
        sources=["upload", "clipboard"],
        height=240,
        buttons=[],
        elem_id="picture",
        elem_classes="picture",
        placeholder=f"Drop a picture here, at most {MAX_BYTES >> 20} MiB",
    )
    gr.Examples(SAMPLES, picture, label="Samples (CIFAR-10 test images)", preprocess=False, elem_id="samples")
    corruption = gr.Dropdown([NO_CORRUPTION, *CORRUPTIONS], label="Corruption", elem_id="corruption")
    severity = gr.Slider(1, 5, 3, step=1, label="Severity", elem_id="severity", buttons=[])
    classifier = gr.Dropdown(list(models.classifiers), label="Classifier", elem_id="classifier")
    cards = list_score_networks()
    sizes = {name: f"{card.image_size} px" if card.image_size else "any size" for name, card in cards.items()}
    names = [(f"{name} ({sizes[name]})" if name in cards else name, name) for name in models.networks]
    network = gr.Dropdown(
        names,
        value=models.networks[0],
        label="Score network",
        info="Choose a name, or type a Hub repository (owner/name) or a path" if models.any_network else None,
        allow_custom_value=models.any_network,
        elem_id="network",
    )
    seed = gr.Number(0, label="Seed of corruption and noise", precision=0, minimum=0, maximum=MAX_SEED, elem_id="seed")
    return [picture, corruption, severity, seed, network, classifier]


def add_image(label: str, name: str) -> gr.Image:
    return gr.Image(label=label, interactive=False, format="png", buttons=[], elem_id=name, elem_classes="picture")


def add_answer() -> list[gr.components.Component]:
    """The components that ``show_answer`` fills."""
    answer_note = gr.HTML(elem_id="answer-note", padding=False)
    views = gr.HTML(elem_id="views", padding=False)
    with gr.Row():
        default = gr.Label(label="Default: the classifier on the picture", num_top_classes=5, elem_id="default")
        de = gr.Label(label="DE: mean over the views", num_top_classes=5, elem_id="de")
    return [answer_note, views, default, de]


def show_setting(
    models: Models,
    picture: dict[str, Any] | None,
    corruption: str,
    severity: int,
    seed: int,
    network: str,
    classifier: str,
) -> tuple[Any, ...]:
    """The Setting or None, the picture, the slider's range, and a note that says what was done or what is wrong."""
    if picture is None:
        return None, None, gr.skip(), note("Drop a picture, or choose a sample.")
    options: dict[str, Any] = {"corruption": corruption, "severity": severity, "seed": seed}
    try:
        setting = compute.prepare(models, picture["path"], network=network, classifier=classifier, **options)
        warning = compute.size_warning(models, setting)
    except ERRORS as error:
        return None, None, gr.skip(), problem(error)
    size = setting.picture.shape[-1]
    sentences = [f"The picture's central square, resized to the classifier's {size} x {size} pixels."]
    if corruption != NO_CORRUPTION:
        constants, name = compute.corruption_set(size), corruption.replace("_", " ")
        sentences.append(f"Corrupted as in {constants}: {name}, severity {severity}.")
    if warning is not None:
        sentences.append(f"Warning: {warning}.")
    last = models.denoiser(network).network.num_timesteps - 1
    return setting, enlarge(setting.picture), gr.Slider(maximum=last), note(*sentences)


def show_denoised(models: Models, setting: Setting | None, timestep: int) -> tuple[Any, ...]:
    """The diffused and the denoised image at t, and the noise level. Nothing if there is no Setting."""
    if setting is None:
        return None, None, None
    try:
        diffused, denoised = compute.denoise(models, setting, timestep)
    except ERRORS as error:
        return None, None, problem(error)
    signal, noise = compute.scales(models, setting, timestep)
    formula = f"At t = {timestep}: x_t = {signal:.2f} x_0 + {noise:.2f} noise, with pixels in [-1, 1]."
    return enlarge(diffused), enlarge(denoised), note(formula, "One network call takes x_t back to x_0.")


def show_answer(models: Models, setting: Setting | None) -> tuple[Any, ...]:
    """A note, the views with their captions, and the probabilities under Default and under DE."""
    if setting is None:
        return None, None, None, None
    try:
        answer = compute.classify(models, setting)
    except ERRORS as error:
        return problem(error), None, None, None
    classes = models.classifier(setting.classifier).classes
    best = [f"{classes[int(row.argmax())]} {row.max():.0%}" for row in answer.view_probabilities]
    captions = [(f"t = {t}", text) for t, text in zip(answer.timesteps, best)]
    default, de = (dict(zip(classes, row.tolist())) for row in (answer.default, answer.de))
    text = f"The ensemble's {len(captions)} views, each with fresh noise, and the classifier's answer for each:"
    return note(text), row_of_views(answer.views, captions), default, de

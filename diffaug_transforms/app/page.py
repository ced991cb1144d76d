"""The components of the page, and which one fills which.

    picture, corruption, severity,                 +--> noise added and removed <--slider-- t
    seed, network, classifier      --> Setting --> |
                                                   +--> answers, views

Each output is filled by one function. If a user calls a function while it runs, only the newest call waits, so an older
answer never overwrites a newer one. The Setting is all that is kept for a user. A function that fails fills only a
note. The page opens on an example whose results were computed when it was built.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from ..images import ASSETS
from ..robustness import CORRUPTIONS
from ..score import list_score_networks
from . import compute, markup, results
from .compute import MAX_SEED, NO_CORRUPTION, Setting
from .models import AUTOMATIC, Models
from .pictures import MAX_BYTES

#: Of each of the page's functions, four calls run at once, for all users together. The others wait.
NEWEST: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 4}
#: Errors that the page shows as one sentence.
ERRORS = (OSError, ValueError, TypeError, RuntimeError, ImportError)
SAMPLES = [*sorted(str(path) for path in (ASSETS / "samples").glob("*.png")), str(ASSETS / "samples" / "photo.jpg")]
#: The example that the page opens on. With it, the embedded classifier's answer is wrong, and the ensemble's is right.
EXAMPLE: dict[str, Any] = {"corruption": "gaussian_noise", "severity": 3, "seed": 2}
EXAMPLE_PICTURE, EXAMPLE_TIMESTEP = str(ASSETS / "samples" / "bird.png"), 150
CHOSEN = "This example was chosen because the answer changes. For most pictures it stays the same."


def build_page(models: Models) -> gr.Blocks:
    """The page with its example's results. It is not served yet."""
    first, corruption = prepare_example(models)
    answers, views, _ = show_answer(models, first)
    steps, formula = show_steps(models, first, EXAMPLE_TIMESTEP)
    described = results.describe(models, first, corruption, EXAMPLE["severity"], CHOSEN)
    with gr.Blocks(title="DiffAug", analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        gr.HTML(markup.introduction(), padding=False)
        setting = gr.State(first)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                picture_note = gr.HTML(described, elem_id="picture-note", padding=False)
                answer_note = gr.HTML(visible=False, elem_id="answer-note", padding=False)
                answer_cards = gr.HTML(answers, elem_id="answers", padding=False)
                view_row = gr.HTML(views, elem_id="views", padding=False)
                step_row = gr.HTML(steps, elem_id="steps", padding=False)
                timestep = gr.Slider(
                    0,
                    models.denoiser(first.network).network.num_timesteps - 1,
                    EXAMPLE_TIMESTEP,
                    step=1,
                    label="Amount of noise (timestep t)",
                    info="For the row above. Training with DiffAug draws t at random.",
                    elem_id="timestep",
                    buttons=[],
                )
                time_note = gr.HTML(formula, elem_id="time-note", padding=False)
                with gr.Accordion("The same in Python", open=False, elem_id="python"):
                    gr.HTML(markup.python(results.SAME_IN_PYTHON), padding=False)
            with gr.Column(scale=1, min_width=280, elem_id="settings"):
                choices = add_choices(models, corruption)
        # Gradio's preprocessing would decode pictures of any size. `prepare` checks every choice itself.
        filled = [setting, timestep, picture_note]
        options = NEWEST | {"api_name": "prepare", "preprocess": False, "show_progress": "hidden"}
        gr.on([choice.change for choice in choices], partial(show_setting, models), choices, filled, **options)
        options = NEWEST | {"api_name": "denoise", "show_progress": "hidden"}
        moving = [timestep.input, setting.change]
        gr.on(moving, partial(show_steps, models), [setting, timestep], [step_row, time_note], **options)
        options = NEWEST | {"api_name": "classify", "show_progress": "minimal"}
        setting.change(partial(show_answer, models), setting, [answer_cards, view_row, answer_note], **options)
    return page.queue(max_size=200)


def prepare_example(models: Models) -> tuple[Setting, str]:
    """The example's Setting and its corruption, which is none if what corruptions need is not installed."""
    try:
        return compute.prepare(models, EXAMPLE_PICTURE, **EXAMPLE), EXAMPLE["corruption"]
    except ImportError:
        return compute.prepare(models, EXAMPLE_PICTURE, seed=EXAMPLE["seed"]), NO_CORRUPTION


def add_choices(models: Models, first_corruption: str) -> list[Any]:
    """The components in which the user chooses, in the order of ``show_setting``'s arguments."""
    picture = gr.Image(
        EXAMPLE_PICTURE,
        label="Picture",
        type="filepath",
        sources=["upload", "clipboard"],
        height=170,
        buttons=[],
        elem_id="picture",
        placeholder=f"Drop a picture here, at most {MAX_BYTES >> 20} MiB",
    )
    gr.Examples(
        SAMPLES, picture, label="Samples: CIFAR-10 test images and a photo", preprocess=False, elem_id="samples"
    )
    corruption = gr.Dropdown(
        [(results.in_words(name), name) for name in (NO_CORRUPTION, *CORRUPTIONS)],
        value=first_corruption,
        label="Damage (corruption)",
        info="What a bad lens, bad weather or a bad camera does to a picture.",
        elem_id="corruption",
    )
    severity = gr.Slider(
        1,
        5,
        EXAMPLE["severity"],
        step=1,
        label="Severity",
        info="1 is slight damage, 5 is strong.",
        visible=first_corruption != NO_CORRUPTION,
        elem_id="severity",
        buttons=[],
    )
    again = gr.Button("New noise", variant="primary", elem_id="again")
    with gr.Accordion("More settings", open=False, elem_id="more"):
        classifier = gr.Dropdown(
            [("automatic", AUTOMATIC), *((name, name) for name in models.classifiers)],
            value=AUTOMATIC,
            label="Classifier",
            info="It names what the picture shows. Automatic: one made for pictures of this size.",
            elem_id="classifier",
        )
        network = gr.Dropdown(
            [("automatic", AUTOMATIC), *((network_label(name), name) for name in models.networks)],
            value=AUTOMATIC,
            label="Denoising network (score network)",
            info="It removes the noise. Automatic: one made for pictures of this size. "
            + ("Or type a Hub repository (owner/name) or a path." if models.any_network else ""),
            allow_custom_value=models.any_network,
            elem_id="network",
        )
        seed = gr.Number(
            EXAMPLE["seed"],
            label="Number of the noise (seed)",
            info="The same number gives the same damage and the same noise. The button takes the next one.",
            precision=0,
            minimum=0,
            maximum=MAX_SEED,
            elem_id="seed",
        )
    corruption.change(lambda name: gr.Slider(visible=name != NO_CORRUPTION), corruption, severity, queue=False)
    again.click(None, seed, seed, js=f"seed => ((seed || 0) + 1) % {MAX_SEED + 1}")
    return [picture, corruption, severity, seed, network, classifier]


def network_label(name: str) -> str:
    """A network's name, and the size of its pictures if it is known."""
    card = list_score_networks().get(name)
    if card is None:
        return name
    return f"{name} ({card.image_size} pixels)" if card.image_size else f"{name} (any size)"


def show_setting(
    models: Models,
    picture: dict[str, Any] | None,
    corruption: str,
    severity: int,
    seed: int,
    network: str,
    classifier: str,
) -> tuple[Any, ...]:
    """The Setting, the slider's range, and a note. If something is wrong, the note says it and the rest stays."""
    if picture is None:
        stays = "The results are still those from before."
        return gr.skip(), gr.skip(), markup.note("There is no picture. Drop one, or choose a sample.", stays)
    options: dict[str, Any] = {"corruption": corruption, "severity": severity, "seed": seed}
    try:
        setting = compute.prepare(models, picture["path"], network=network, classifier=classifier, **options)
        described = results.describe(models, setting, corruption, severity)
    except ERRORS as error:
        return gr.skip(), gr.skip(), markup.problem(error)
    last = models.denoiser(setting.network).network.num_timesteps - 1
    return setting, gr.Slider(maximum=last), described


def show_steps(models: Models, setting: Setting, timestep: int) -> tuple[Any, Any]:
    """The row that adds and removes noise at t, and the amount of noise in words."""
    try:
        row = results.show_steps(models, setting, timestep)
    except ERRORS as error:
        return gr.skip(), markup.problem(error)
    signal, noise = compute.scales(models, setting, timestep)
    sentence = f"At t = {timestep} the network gets {signal:.2f} times the picture plus {noise:.2f} times the noise."
    return row, markup.note(sentence, "Pixels go from -1 to 1 there.")


def show_answer(models: Models, setting: Setting) -> tuple[Any, Any, Any]:
    """The answers, the views, and a note that is shown only if something is wrong."""
    if setting.classifier is None:
        return markup.note(results.NO_CLASSIFIER), "", gr.HTML(visible=False)
    try:
        purified = compute.purify(models, setting)
        answer = compute.classify(models, setting, purified.image)
    except ERRORS as error:
        return gr.skip(), gr.skip(), gr.HTML(markup.problem(error), visible=True)
    cards, views = results.show_answer(setting, purified, answer), results.show_views(setting, answer)
    return cards, views, gr.HTML(visible=False)

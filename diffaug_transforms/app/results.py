"""The results of one Setting, as the page shows them: HTML, in plain sentences."""

from __future__ import annotations

from . import compute, markup
from .compute import NO_CORRUPTION, Answer, Purified, Setting
from .imagenet import HOW_TO_GET_ONE
from .models import Models

#: A classifier's classes are listed up to this number.
FEW_CLASSES = 20
NO_CLASSIFIER = (
    f"No classifier for photos is installed, so there are only pictures and no answers. To get one: {HOW_TO_GET_ONE}"
)
#: What the page shows, in Python.
SAME_IN_PYTHON = """import torch
from diffaug_transforms import DiffAug, DiffAugEnsemble, Purify
from diffaug_transforms.classifiers import load_classifier

images = torch.rand(4, 3, 32, 32)  # in [0, 1]
classifier = load_classifier("cifar10-diffaug")

alone = classifier(images)  # logits (4, 10)
purified = classifier(Purify("cifar10")(images))
mean = DiffAugEnsemble(classifier, "cifar10")(images)
view = DiffAug("cifar10")(images)  # a random view of each image, to train on
"""


def describe(models: Models, setting: Setting, corruption: str, severity: int, *more: str) -> str:
    """What the picture shows, what was done with it, a warning if its size does not fit the network, and more."""
    size = setting.picture.shape[-1]
    done = f"{size} x {size} pixels"
    if corruption != NO_CORRUPTION:
        done += f", damaged by {in_words(corruption)} of severity {severity}"
    truth = setting.truth
    shows = (
        "The network sees your picture" if truth is None else f"This is {'an' if truth[0] in 'aeiou' else 'a'} {truth}"
    )
    sentences = [f"{shows}, {done}.", *more]
    if (warning := compute.size_warning(models, setting)) is not None:
        sentences.append(f"Warning: {warning}.")
    return markup.note(*sentences)


def show_answer(setting: Setting, purified: Purified, answer: Answer) -> str:
    """The three answers side by side, and which classes the classifier knows."""
    how = f"Purify removes noise of {purified.sigma:.2f} in one call."
    if not purified.is_changed:
        how = "Purify finds no noise and leaves the picture as it is."
    seen = [
        markup.picture(setting.picture, "the picture as the classifier sees it", kind="seen"),
        markup.picture(purified.image, "the picture without its noise", kind="seen"),
        markup.mosaic(list(answer.views)),
    ]
    three = [
        ("The classifier alone", answer.default, "It sees the picture as it is."),
        ("After removing the noise", answer.purified, how),
        (f"Mean over {len(answer.views)} views", answer.de, "DiffAugEnsemble: the views are below."),
    ]
    cards = [
        markup.card(title, picture, answer.classes, probabilities, text, setting.truth)
        for picture, (title, probabilities, text) in zip(seen, three)
    ]
    return markup.cards(*cards)


def show_views(setting: Setting, answer: Answer) -> str:
    """The ensemble's views with the classifier's answer for each."""
    best = [f"{answer.classes[int(row.argmax())]} {row.max():.0%}" for row in answer.view_probabilities]
    captions = [("picture" if t == 0 else f"t = {t}", text) for t, text in zip(answer.timesteps, best)]
    text = "Each view got its own noise, more from left to right, and one network call removed it. t is the timestep."
    heading = markup.section("The views, and the classifier's answer for each", text)
    return heading + markup.figures("views", answer.views, captions) + classes_known(setting, answer)


def classes_known(setting: Setting, answer: Answer) -> str:
    """Which classes there are. A picture of anything else gets one of them too."""
    number, names = len(answer.classes), ", ".join(answer.classes[:FEW_CLASSES])
    kinds = f"{number:,} classes, such as {names}" if number > FEW_CLASSES else f"these {number} classes: {names}"
    return markup.note(
        f"The classifier {setting.classifier} knows only {kinds}. Every picture gets one of them as its answer."
    )


def show_steps(models: Models, setting: Setting, timestep: int) -> str:
    """The picture, with noise at t, and denoised in one step; without a classifier also the purified picture."""
    diffused, denoised = compute.denoise(models, setting, timestep)
    images, captions = [setting.picture, diffused, denoised], ["picture", "noise added", "noise removed in one step"]
    if setting.classifier is None:
        images.append(compute.purify(models, setting).image)
        captions.append("Purify: only its own noise removed")
    text = "A view starts as the picture. Noise is added, and one network call removes it."
    heading = markup.section("One view, step by step", text)
    return heading + markup.figures("steps", images, [(caption,) for caption in captions])


def in_words(name: str) -> str:
    """A corruption's name as a person would write it."""
    return name.replace("_", " ").replace("jpeg", "JPEG")

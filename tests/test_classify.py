"""One call of a user's classifier: its mode, and whether it returns logits."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from diffaug_transforms import DiffAugEnsemble
from diffaug_transforms.classify import logits_of

IMAGES = torch.rand(4, 3, 8, 8)


def classifier(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(3 * 8 * 8, 5))


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Dropout(0.5)])
def test_a_classifier_in_training_mode_gets_a_warning(layer):
    model = classifier(layer).train()
    with pytest.warns(UserWarning, match=r"training mode.*Call classifier.eval\(\)"):
        logits_of(model, nn.Identity(), IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits_of(model.eval(), nn.Identity(), IMAGES)
        logits_of(classifier().train(), nn.Identity(), IMAGES)  # nothing in it knows a mode


def test_a_classifier_that_ends_in_softmax_gets_a_warning():
    with pytest.warns(UserWarning, match="ends in Softmax.* must return logits: leave the Softmax out") as warned:
        DiffAugEnsemble(nn.Sequential(classifier(), nn.Sequential(nn.Softmax(1))).eval())
    assert warned[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DiffAugEnsemble(nn.Sequential(nn.Softmax(1), classifier(), nn.LogSoftmax(1)).eval())  # log p are logits
        DiffAugEnsemble(nn.Sequential())


def test_a_list_of_images_is_told_to_be_stacked():
    with pytest.raises(TypeError, match=r"images must be one batch. Got a list of 4: stack those of one size"):
        DiffAugEnsemble(classifier().eval(), timesteps=[0])(list(IMAGES))

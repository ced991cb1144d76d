"""Strategies for the code of images as people have them, of samples that hold images, and of labels."""

from __future__ import annotations

from hypothesis import strategies as st

from .values import mixed

MODES = (
    "RGB",
    "L",
    "LA",
    "RGBA",
    "P",
    "1",
    "I",
    "I;16",
    "F",
    "CMYK",
    "HSV",
    "YCbCr",
    "LAB",
    "PA",
    "RGBX",
    "La",
    "RGBa",
)
FLOATS = ("float32", "float16", "bfloat16", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "bool")
ODD_TYPES = (*INTEGERS, "complex64", "float8_e4m3fn", "float8_e5m2", "uint16")
VALUES = ("bytes", "normalised", "signed", "nan", "inf", "minus_inf", "huge")
LAYOUTS = ("channels_last", "strided", "expanded", "grad", "parameter")

sides = st.sampled_from((16, 16, 16, 16, 8, 17, 15, 24, 7, 33, 40, 3, 2, 1))
odd_sides = mixed(sides, st.sampled_from((0, 0, 1, 40)))
batches = st.sampled_from((1, 2, 2, 3, 5, 0))


def choice(*codes: str) -> st.SearchStrategy[str]:
    return st.sampled_from(codes)


@st.composite
def good_tensors(draw: st.DrawFn, channels: int = 3, batched: bool | None = None) -> str:
    """Tensors that every augmentation must take. ``batched``: only (B, C, H, W), only (C, H, W), or any."""
    shape = (channels, draw(sides), draw(sides))
    if batched or (batched is None and draw(st.booleans())):
        shape = (draw(batches), *shape)
        if batched is None and draw(st.integers(0, 5)) == 0:
            shape = (2, *shape)
    dtype = draw(st.sampled_from(("uint8", *FLOATS)))
    values = draw(st.sampled_from(("unit", "unit", "unit", "zeros", "ones")))
    return pixels(shape, dtype, values, draw(st.sampled_from(("plain", "plain", *LAYOUTS))))


def pixels(shape: tuple[int, ...], *words: str) -> str:
    """``pixels(shape, dtype, values, layout)`` without the last defaults."""
    given = list(words)
    for default in ("plain", "unit", "float32"):
        if len(given) and given[-1] == default and len(given) == ("float32", "unit", "plain").index(default) + 1:
            given.pop()
    return f"pixels({', '.join([repr(shape), *map(repr, given)])})"


@st.composite
def odd_tensors(draw: st.DrawFn) -> str:
    """Tensors with one or several things wrong: dtype, values, number of channels or dimensions, their order, sizes."""
    height, width, batch = draw(odd_sides), draw(odd_sides), draw(batches)
    channels = draw(st.sampled_from((3, 3, 3, 1, 2, 4, 6, 0)))
    shape = draw(
        st.sampled_from(
            (
                (channels, height, width),
                (batch, channels, height, width),
                (height, width),
                (height, width, 3),
                (batch, height, width, 3),
                (2, 1, 3, height, width),
                (height,),
                (),
            )
        )
    )
    dtype = draw(st.sampled_from(("float32", "float32", "uint8", "float16", *ODD_TYPES)))
    values = draw(st.sampled_from(("unit", "unit", *VALUES)))
    return pixels(shape, dtype, values, draw(st.sampled_from(("plain", "plain", *LAYOUTS))))


good_pictures = st.builds("picture('RGB', {}, {})".format, sides, sides)
odd_pictures = st.builds("picture({!r}, {}, {})".format, st.sampled_from(MODES), odd_sides, odd_sides)


@st.composite
def arrays(draw: st.DrawFn) -> str:
    """NumPy arrays: height, width, channels as they should be, and others."""
    height, width = draw(sides), draw(sides)
    good = st.sampled_from(((height, width, 3), (height, width, 3), (2, height, width, 3)))
    odd = st.sampled_from(
        ((3, height, width), (height, width), (height, width, 4), (height, width, 1), (0, 16, 16, 3), ())
    )
    shape = draw(mixed(good, good, odd))
    dtype = draw(
        st.sampled_from(("uint8", "uint8", "float32", "float64", "float16", "int64", "bool", "complex64", "object"))
    )
    values = draw(st.sampled_from(("unit", "unit", "unit", "bytes", "normalised", "nan")))
    return f"array({shape}, {dtype!r}, {values!r})"


@st.composite
def tv_images(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(("Image", "Image", "Video")))
    dtype = draw(st.sampled_from(("uint8", "float32")))
    shape = (3, draw(sides), draw(sides))
    if kind == "Video" or draw(st.booleans()):
        shape = (draw(batches), *shape)
    return f"tv_tensors.{kind}({pixels(shape, dtype)})"


nonsense = choice(
    "None", "'cat.png'", "Path('cat.png')", "7", "2.5", "True", "b'png'", "'x'", "object()", "torch", "int", "1j",
    "boxes()", "tv_tensors.Mask(pixels((1, 16, 16), 'uint8'))", "nan", "range(3)", "{1, 2}", "lambda: 3",
)  # fmt: skip
empty = choice("[]", "()", "{}", "[[]]", "{'image': []}", "pixels((0, 3, 16, 16))", "pixels((0,))")
bytes_of_pictures = choice(
    "picture()", "pixels((3, 16, 16), 'uint8')", "pixels((2, 3, 17, 24), 'uint8')", "pixels((2, 1, 3, 16, 40), 'uint8')"
)
good_images = mixed(good_tensors(), good_tensors(), good_pictures, tv_images())
images = mixed(good_images, odd_tensors(), odd_pictures, arrays(), arrays())

#: Places for up to two images, {a} and {b}, and what people put beside them.
SAMPLES = (
    "({a}, 3)",
    "({a}, torch.tensor([5, 17, 3, 99]))",
    "({a}, torch.tensor(3))",
    "({a}, 'cat')",
    "({a}, None)",
    "({a}, 0, 3)",
    "({a}, [3, 5])",
    "({a}, pixels((2, 7)))",
    "({a}, {{'boxes': boxes(2), 'labels': torch.tensor([55, 3])}})",
    "({a}, {{'boxes': boxes(1), 'labels': torch.tensor([3])}})",
    "({a}, tv_tensors.Mask(pixels((1, 16, 16), 'uint8')))",
    "({a}, picture('L'))",
    "({a}, picture('P'))",
    "({a}, {b})",
    "[{a}, {b}]",
    "[{a}]",
    "[{a}, {a}, {b}]",
    "[{a}, 3]",
    "({a},)",
    "{{'image': {a}, 'label': 3}}",
    "{{'image': [{a}, {b}], 'label': [3, 5]}}",
    "{{'pixel_values': {a}, 'labels': torch.tensor([1, 2])}}",
    "{{'image': {a}, 'mask': picture('L'), 'path': Path('a.png')}}",
    "[{{'image': {a}, 'label': 3}}, {{'image': {b}, 'label': 5}}]",
    "({{'image': {a}}}, 3)",
    "([{a}, {b}], [3, 5])",
    "([{a}, {b}], torch.tensor([3, 5]))",
    "(([{a}],), {{'deep': (3, [None, 'x'])}})",
    "Sample({a}, 3)",
    "OrderedDict(image={a}, label=3)",
    "defaultdict(int, image={a}, label=3)",
    "{{'image': {a}, 'noise': pixels((3, 16, 16), 'float32', 'normalised')}}",
    "{{'label': 3}}",
    "(3, 'cat')",
)


def _filled(template: str, a: str, b: str) -> str:
    return template.format(a=a, b=b)


samples = st.builds(_filled, st.sampled_from(SAMPLES), mixed(good_images, images), mixed(good_images, images))
#: What transforms are called with.
everything = mixed(images, images, samples, samples, samples, nonsense, empty)
#: What ensembles and other wrappers are called with: mostly batches.
wrapped = mixed(good_tensors(batched=True), good_tensors(batched=True), good_tensors(), images, images, nonsense, empty)

#: Labels for two images and a network of five classes.
GOOD_LABELS = (
    "torch.tensor([0, 4])",
    "torch.tensor([2, 2], dtype=torch.int32)",
    "torch.tensor([2, 2], dtype=torch.uint8)",
)
LISTED_LABELS = ("[0, 4]", "(1, 2)", "np.array([3, 4])", "[np.int64(3), 2]")
BAD_LABELS = (
    "torch.tensor([0, 5])",
    "torch.tensor([-1, 2])",
    "torch.tensor([1, 2, 3])",
    "torch.tensor([1.9, 2.9])",
    "torch.tensor([True, False])",
    "pixels((2, 5))",
    "torch.tensor([1, 2], dtype=torch.complex64)",
    "['cat', 'dog']",
    "'cat'",
    "[1.9, 2.9]",
    "[1, None]",
    "[[1], [2, 3]]",
    "[]",
    "torch.tensor([])",
    "[10**30, 1]",
    "{1: 2}",
    "object()",
    "nan",
    "np.array(['a', 'b'])",
    "np.array([1.5, 2.5])",
    "np.array([None, 1])",
    "[True, False]",
    "[{'boxes': boxes()}, {}]",
)

"""The 80 classes of COCO 2014/2017 detection and a colour for each."""

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)


def _spread_colours(count: int) -> list[tuple[int, int, int]]:
    """Well separated RGB colours: hues in golden-ratio steps, three levels of lightness."""
    import colorsys

    colours = []
    for index in range(count):
        hue = index * 0.61803398875 % 1.0
        red, green, blue = colorsys.hls_to_rgb(hue, (0.45, 0.6, 0.35)[index % 3], 0.75)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colours


COCO_PALETTE = _spread_colours(len(COCO_CLASSES))

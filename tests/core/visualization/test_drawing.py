import itertools
import logging

import cv2
import numpy as np
import pytest
import torch

from detcore.errors import ConfigError, DataError, DetcoreError
from detcore.structures import DetDataSample, InstanceData
from detcore.visualization import DetLocalVisualizer, Visualizer, canvas, get_palette
from detcore.visualization.palette import text_color

CLASSES = {"classes": ("cat", "größter Hund", "圆形")}


def instances(boxes=((10, 20, 60, 70), (30, 40, 90, 95)), scores=(0.9, 0.4), labels=(0, 1), **more):
    return InstanceData(
        bboxes=torch.tensor(boxes).float().reshape(-1, 4), scores=torch.tensor(scores).float(),
        labels=torch.tensor(labels).long(), **more)


def visualizer(**arguments):
    made = DetLocalVisualizer(**arguments)
    made.dataset_meta = dict(CLASSES)
    return made


def grey(height=120, width=160):
    return np.full((height, width, 3), 128, np.uint8)


def test_boxes_are_drawn_in_the_colour_of_their_class_and_the_input_stays_as_it_was():
    image = grey()
    drawn = visualizer().draw_instances(image, instances())
    assert (image == 128).all()
    palette = get_palette(None, 3)
    for (x, y), color in (((60, 50), palette[0]), ((90, 80), palette[1])):
        assert np.abs(drawn[y, x].astype(int) - color).max() < 40


@pytest.mark.parametrize("shape", [(24, 32), (120, 160), (1200, 1600)])
def test_labels_keep_a_readable_height_and_stay_inside_at_any_size(shape):
    height, width = shape
    corner = instances([(0, 0, width, height), (width - 3, height - 3, width + 50, height + 50)])
    drawn = visualizer().draw_instances(grey(height, width), corner)
    assert drawn.shape == (height, width, 3)
    assert 10 <= canvas.text_height(drawn) <= 40
    ground = (drawn == np.array(get_palette(None, 1)[0])).all(axis=-1)
    assert ground[: canvas.text_height(drawn)].sum() > canvas.text_height(drawn) * 10


def test_a_name_and_its_score_leave_letters_on_the_label():
    drawn = visualizer().draw_instances(grey(), instances([(10, 40, 60, 90)], [0.9], [2]))
    assert text_color(get_palette(None, 3)[2]) == (0, 0, 0)
    label = drawn[40 - 2 * canvas.text_height(drawn) : 40, 10:60]
    assert (label.max(axis=-1) < 80).sum() > 15  # black letters on a bright ground


def test_labels_of_two_boxes_at_one_place_do_not_cover_each_other():
    taken = []
    for _ in range(2):
        taken.append(canvas._place((50, 50, 90, 90), (40, 12), (200, 200), taken))
    assert not canvas._overlap(*taken)


@pytest.mark.parametrize(
    "image",
    [np.zeros((40, 50)), np.zeros((40, 50, 1), np.uint8), np.random.rand(40, 50, 3),
     np.ones((40, 50, 4), np.uint8), np.full((40, 50, 3), 65535, np.uint16), np.full((40, 50, 3), 255.0),
     np.zeros((40, 50, 3), bool)],
)
def test_any_usual_image_becomes_uint8_rgb(image):
    converted = canvas.to_rgb_uint8(image)
    assert converted.dtype == np.uint8
    assert converted.shape == (40, 50, 3)
    if image.max() in (65535, 255.0):
        assert converted.min() == 255


@pytest.mark.parametrize("image", [np.zeros((4, 5, 2)), np.zeros(4), np.zeros((0, 5, 3)), np.array([["a"]])])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(DataError, match="an image"):
        canvas.to_rgb_uint8(image)


def test_no_prediction_boxes_without_numbers_and_boxes_far_outside_are_fine():
    empty = visualizer().draw_instances(grey(), instances((), (), ()))
    assert (empty == 128).all()
    strange = instances([(-1e9, -1e9, 1e9, 1e9), (float("nan"), 0, 5, 5)])
    assert visualizer().draw_instances(grey(), strange).shape == (120, 160, 3)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with numpy 2
def test_masks_are_tinted_and_rle_bitmaps_and_tensors_agree():
    from pycocotools import mask as coco_mask

    region = np.zeros((2, 120, 160), bool)
    region[0, 20:60, 20:60] = True
    rle = [coco_mask.encode(np.asfortranarray(one.astype(np.uint8))) for one in region]
    pictures = []
    for masks in (torch.from_numpy(region), region, rle):
        pictures.append(visualizer().draw_instances(grey(), instances(masks=masks)))
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] == pictures[2]).all()
    assert (pictures[0][25:55, 45:55] != 128).any()


def test_a_label_beyond_the_names_is_called_by_its_number():
    drawn = visualizer().draw_instances(grey(), instances(labels=(7, 0)))
    assert (drawn != 128).any()


def test_add_datasample_writes_a_file_with_truth_beside_predictions(tmp_path):
    sample = DetDataSample(gt_instances=instances(), pred_instances=instances())
    target = tmp_path / "new" / "a.png"
    made = visualizer()
    made.add_datasample("a", grey(), sample, out_file=str(target))
    written = cv2.imread(str(target))[..., ::-1]
    assert written.shape == (120, 320, 3)
    assert (written == made.get_image()).all()


def test_scores_below_the_threshold_are_not_drawn():
    made = visualizer()
    made.add_datasample("a", grey(), DetDataSample(pred_instances=instances()), pred_score_thr=0.95)
    assert (made.get_image() == 128).all()


def test_an_image_that_nobody_annotated_has_one_panel():
    sample = DetDataSample(gt_instances=InstanceData(), pred_instances=instances())
    made = visualizer()
    made.add_datasample("a", grey(), sample)
    assert made.get_image().shape == (120, 160, 3)


def test_a_suffix_that_is_no_picture_is_named(tmp_path):
    with pytest.raises(DetcoreError, match=r"\.txt"):
        visualizer().add_datasample("a", grey(), None, out_file=str(tmp_path / "a.txt"))


def test_without_windows_the_message_says_what_to_do_instead(monkeypatch):
    def imshow(*_):
        raise cv2.error("no GUI")

    monkeypatch.setattr(cv2, "imshow", imshow)
    with pytest.raises(DetcoreError, match="write to a file"):
        visualizer(image=grey()).show()


def test_get_image_without_a_picture_says_so():
    with pytest.raises(DetcoreError, match="set_image"):
        Visualizer().get_image()


def test_single_drawing_calls_take_one_or_many():
    made = Visualizer(image=grey())
    made.draw_bboxes(torch.tensor([5.0, 5, 20, 20])).draw_bboxes(np.array([[5, 5, 20, 20], [30, 30, 50, 50]]))
    made.draw_texts("a", (10, 60))
    made.draw_texts(["b", "c"], [(40, 60), (80, 60)], colors=[(255, 0, 0), (0, 0, 255)])
    made.draw_polygons(np.array([[100, 10], [120, 10], [110, 30]]))
    made.draw_binary_masks(np.ones((120, 160), bool), alphas=0.1)
    assert (made.get_image() != 128).any(axis=-1).mean() > 0.9


def test_a_font_is_found_in_older_opencv(monkeypatch):
    monkeypatch.delattr(cv2, "FontFace", raising=False)
    drawn = visualizer().draw_instances(grey(), instances())
    assert (drawn == 255).all(axis=-1).any()


def test_the_palette_is_the_same_every_time_and_neighbours_differ():
    colors = get_palette(None, 80)
    assert colors == get_palette("random", 80)
    assert get_palette(None, 3) == colors[:3]
    gaps = [np.abs(np.subtract(a, b)).max() for a, b in itertools.pairwise(colors)]
    assert min(gaps) > 60


def test_palettes_may_be_given_and_mistakes_are_named():
    assert get_palette([(1, 2, 3)], 2) == [(1, 2, 3)] * 2
    assert get_palette((9, 9, 9), 2) == [(9, 9, 9)] * 2
    assert get_palette([], 1) == get_palette(None, 1)
    with pytest.raises(ConfigError, match="'sunset'"):
        get_palette("sunset", 1)
    with pytest.raises(ConfigError, match="0 to 255"):
        get_palette([(1, 2, 300)], 1)


@pytest.mark.parametrize("color", get_palette(None, 30))
def test_letters_contrast_with_their_ground(color):
    def luminance(rgb):
        return float(np.dot(rgb, (0.299, 0.587, 0.114)))

    assert abs(luminance(color) - luminance(text_color(color))) > 90


def test_the_log_stays_quiet(caplog):
    with caplog.at_level(logging.WARNING):
        visualizer().draw_instances(grey(), instances())
    assert not caplog.records

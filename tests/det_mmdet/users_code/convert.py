"""Outlines of the VGG Image Annotator to COCO's format, with the helpers that the manual's example uses."""
import os.path as osp

import mmcv
from mmengine.fileio import dump, load
from mmengine.utils import mkdir_or_exist, track_iter_progress


def convert_via_to_coco(ann_file, out_file, image_prefix, category='balloon'):
    images, annotations = [], []
    for image_id, entry in enumerate(track_iter_progress(list(load(ann_file).values()))):
        name = entry['filename']
        height, width = mmcv.imread(osp.join(image_prefix, name)).shape[:2]
        images.append(dict(id=image_id, file_name=name, height=height, width=width))
        for region in entry['regions'].values():
            shape = region['shape_attributes']
            xs, ys = shape['all_points_x'], shape['all_points_y']
            left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
            annotations.append(
                dict(
                    id=len(annotations),
                    image_id=image_id,
                    category_id=0,
                    bbox=[left, top, right - left, bottom - top],
                    area=(right - left) * (bottom - top),
                    segmentation=[[value + 0.5 for point in zip(xs, ys) for value in point]],
                    iscrowd=0))
    mkdir_or_exist(osp.dirname(out_file))
    dump(
        dict(images=images, annotations=annotations, categories=[dict(id=0, name=category)]), out_file)

"""A data set that reads a text file, as in the manual, and one that changes what is kept of each image."""
import os.path as osp
from typing import List, Union

import mmengine
from mmdet.base_det_dataset import BaseDetDataset
from mmdet.registry import DATASETS


@DATASETS.register_module()
class MyDataset(BaseDetDataset):

    METAINFO = {
        'classes': ('person', 'bicycle', 'car', 'motorcycle'),
        'palette': [(220, 20, 60), (119, 11, 32), (0, 0, 142), (0, 0, 230)]
    }

    def load_data_list(self, ann_file):
        lines = iter(mmengine.list_from_file(ann_file))
        data_infos = []
        for line in lines:
            assert line == '#', f'expected the start of an image, got {line}'
            img_path = next(lines)
            width, height = map(int, next(lines).split())
            instances = []
            for _ in range(int(next(lines))):
                *bbox, label = next(lines).split()
                instances.append(dict(bbox=list(map(float, bbox)), bbox_label=int(label)))
            data_infos.append(
                dict(
                    img_path=img_path,
                    img_id=len(data_infos),
                    width=width,
                    height=height,
                    instances=instances))
        return data_infos


@DATASETS.register_module()
class MyPrefixedDataset(MyDataset):
    """Joins the image folder itself, and drops images that its own rule refuses."""

    def __init__(self, *args, most_instances: int = 10, **kwargs) -> None:
        self.most_instances = most_instances
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> List[dict]:
        infos = super().load_data_list(self.ann_file)
        return [self.parse_data_info(info) for info in infos]

    def parse_data_info(self, raw_data_info: dict) -> Union[dict, List[dict]]:
        raw_data_info['img_path'] = osp.join(self.data_prefix['img'], raw_data_info['img_path'])
        for instance in raw_data_info['instances']:
            instance['ignore_flag'] = 0
        return raw_data_info

    def filter_data(self) -> List[dict]:
        if self.test_mode:
            return self.data_list
        return [info for info in self.data_list if len(info['instances']) <= self.most_instances]

    def get_cat_ids(self, idx: int) -> List[int]:
        return [instance['bbox_label'] for instance in self.get_data_info(idx)['instances']]

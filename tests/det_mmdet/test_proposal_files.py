"""Files of proposals as MMDetection's DumpProposals writes them."""

import pickle
import sys
import types

import numpy as np

from detcore.data.proposals import load_proposals


def test_instance_data_in_a_pickle_gives_its_boxes_and_scores(tmp_path, monkeypatch):
    module = types.ModuleType("mmengine.structures.instance_data")
    kind = type("InstanceData", (), {"__module__": module.__name__, "__qualname__": "InstanceData"})
    module.InstanceData = kind
    for name in ("mmengine", "mmengine.structures"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found = kind()
    found._metainfo_fields, found._data_fields = set(), {"bboxes", "scores"}
    found.bboxes = np.array([[1.5, 2, 3, 4], [0, 0, 9, 9]], np.float32)
    found.scores = np.array([0.75, 0.5], np.float32)
    path = tmp_path / "rpn_val2017.pkl"
    path.write_bytes(pickle.dumps({"val2017/000000000139.jpg": found}, protocol=2))
    boxes, scores = load_proposals(path).of("val2017/000000000139.jpg")
    assert np.array_equal(boxes, found.bboxes)
    assert np.array_equal(scores, found.scores)

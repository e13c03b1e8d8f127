"""Scope ``datasets``: name -> where it lives. Sorted; imported when first built."""
from detcore.plugins import hookimpl
from detcore.registry.scopes import ComponentTable

DETCORE_API = 1


@hookimpl
def detcore_components(components: ComponentTable) -> None:
    """Name this package's components."""
    components.add_many("datasets", {
        "CocoDataset": "det_datasets.coco:CocoDataset",
        "VOCDataset": "det_datasets.voc:VOCDataset",
        "XMLDataset": "det_datasets.xml_style:XMLDataset",
    })
    components.add_many("metrics", {
        "CocoMetric": "det_datasets.coco_metric:CocoMetric",
        "VOCMetric": "det_datasets.voc_metric:VOCMetric",
    })

"""What travels between the components: instances, maps and samples; see also ``mask`` and ``bbox``."""

from detcore.structures.base import BaseDataElement
from detcore.structures.det_data_sample import DetDataSample
from detcore.structures.instance_data import InstanceData
from detcore.structures.pixel_data import PixelData

__all__ = ["BaseDataElement", "DetDataSample", "InstanceData", "PixelData"]

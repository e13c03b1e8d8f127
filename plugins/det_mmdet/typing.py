"""Names for types that MMDetection's signatures use.

To the registry they are what they look like: a dict stays a dict and reaches the constructor as it stands in
the config, so that modules that call ``MODELS.build`` themselves work.
"""

from collections.abc import Sequence
from typing import Any

from detcore.config import ConfigDict
from detcore.structures import DetDataSample, InstanceData, PixelData

ConfigType = ConfigDict | dict
OptConfigType = ConfigType | None
MultiConfig = ConfigType | list[ConfigType]
OptMultiConfig = MultiConfig | None

InstanceList = list[InstanceData]
OptInstanceList = InstanceList | None
PixelList = list[PixelData]
OptPixelList = PixelList | None
SampleList = list[DetDataSample]
OptSampleList = SampleList | None
RangeType = Sequence[tuple[int, int]]

DATA_BATCH = dict[str, Any] | tuple | list | None

"""What ``import mmengine`` gave that is still needed: files, configs, small checks."""

from det_mmdet import dist
from det_mmdet import files as fileio
from det_mmdet.files import (
    check_file_exist,
    dict_from_file,
    dump,
    list_from_file,
    load,
    mkdir_or_exist,
    scandir,
)
from det_mmdet.helpers import (
    digit_version,
    is_list_of,
    is_seq_of,
    is_str,
    is_tuple_of,
    to_1tuple,
    to_2tuple,
    to_3tuple,
    to_4tuple,
    to_ntuple,
    track_iter_progress,
)
from det_mmdet.logs import MMLogger, print_log
from detcore.config import Config, ConfigDict

__all__ = [
    "Config",
    "ConfigDict",
    "MMLogger",
    "check_file_exist",
    "dict_from_file",
    "digit_version",
    "dist",
    "dump",
    "fileio",
    "is_list_of",
    "is_seq_of",
    "is_str",
    "is_tuple_of",
    "list_from_file",
    "load",
    "mkdir_or_exist",
    "print_log",
    "scandir",
    "to_1tuple",
    "to_2tuple",
    "to_3tuple",
    "to_4tuple",
    "to_ntuple",
    "track_iter_progress",
]

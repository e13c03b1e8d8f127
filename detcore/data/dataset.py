"""BaseDetDataset: annotations in columns, a pipeline of transforms, and the manual's ways to extend it."""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np

from detcore.data.build import TableBuilder
from detcore.data.checks import BoxRules, drop_unusable
from detcore.data.columns import labels_one_by_one
from detcore.data.defects import DefectCounter
from detcore.data.filters import FilterCfg, FilterRules, filter_images
from detcore.data.mask_checks import check_masks
from detcore.data.memory import return_freed_memory
from detcore.data.metainfo import BackendArgs, DataPrefix, MetaInfo, merge_metainfo
from detcore.data.middle_format import read_middle_format
from detcore.data.proposals import SharedProposals, check_proposals, load_proposals, proposals_of_image
from detcore.data.ragged import Ragged
from detcore.data.refetch import BadImagePolicy
from detcore.data.table import AnnotationTable
from detcore.data.transforms.compose import Compose
from detcore.errors import DataError
from detcore.registry import TRANSFORMS, Open

LARGE = 10_000
"""Images from which on it pays to tidy up after reading."""

logger = logging.getLogger(__name__)


class BaseDetDataset:
    """A detection data set in the manual's middle format, and the base of all others.

    The file holds ``metainfo`` and ``data_list``; each entry has ``img_path``, ``height``, ``width`` and
    ``instances`` (``bbox`` xyxy in absolute pixels, ``bbox_label``, ``ignore_flag``, ``mask``). Annotations
    are kept as flat arrays that forked and spawned workers share.

    Own formats: derive and override `load_data_list` (returns the manual's list of dicts); `parse_data_info`,
    `filter_data` and `get_cat_ids` can be overridden too.

    Args:
        ann_file: Annotation file, relative to ``data_root`` unless absolute.
        metainfo: Overrides `METAINFO`, above all ``classes``: only instances of these are kept, and a
            class's position is its label.
        data_root: Folder that ``ann_file`` and the prefixes are relative to.
        data_prefix: Folders of the images (``img_path`` or ``img``), label maps (``seg``), ...
        filter_cfg: ``filter_empty_gt`` drops images without instances, ``min_size`` drops images whose
            shorter side has fewer pixels, ``bbox_min_size`` sets smaller boxes to be ignored. Not applied
            in test mode.
        indices: Use the first (negative: last) so many images, or those at the given positions.
        serialize_data: Accepted as in the manual; annotations are always kept in columns.
        pipeline: Transforms applied by `__getitem__`.
        test_mode: Nothing is filtered, and a sample that the pipeline refuses is an error.
        lazy_init: Read the annotations on first use instead of now.
        max_refetch: How often another sample is drawn where the pipeline returns None.
        backend_args: None or ``dict(backend='local')``; images are read from local files.
        return_classes: Put the class names into each sample as ``text``.
        on_bad_image: ``'raise'`` stops at an image that cannot be read, ``'skip'`` takes another sample and
            reports how many were skipped.
        bad_annotations: ``'drop'`` leaves out unusable instances and reports them once, by reason;
            ``'raise'`` makes them errors.
        missing_classes: ``'raise'`` refuses classes that the annotation file does not have, ``'allow'``
            accepts them (they then have no instance).
        seg_map_suffix: Ending of the label maps' file names.
        caption_prompt: With ``return_classes``, put into each sample under the same name.
        proposal_file: Proposals of all images, for `LoadProposals`: ``.npz`` or ``.json`` of `DumpProposals`,
            or MMDetection's ``.pkl``; below ``data_root``.
        file_client_args: Refused: the old name of ``backend_args``.

    Raises:
        DataError: An argument that is refused, classes that are no tuple of names or not in the file, an
            annotation file that cannot be read or contradicts itself, or a data set without any image.
    """

    METAINFO: ClassVar[Mapping[str, Any]] = {}
    MIN_BOX_SIDE: ClassVar[float] = 0.0

    def __init__(
        self,
        ann_file: str = "",
        metainfo: Annotated[MetaInfo, Open()] | None = None,
        data_root: str | None = "",
        data_prefix: Annotated[DataPrefix, Open()] | None = None,
        filter_cfg: FilterCfg | None = None,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        pipeline: Annotated[Sequence[Callable], TRANSFORMS] = (),
        test_mode: bool = False,
        lazy_init: bool = False,
        max_refetch: int = 1000,
        backend_args: Annotated[BackendArgs, Open()] | None = None,
        return_classes: bool = False,
        on_bad_image: str = "raise",
        bad_annotations: str = "drop",
        missing_classes: str = "raise",
        seg_map_suffix: str = ".png",
        caption_prompt: dict | None = None,
        proposal_file: str | None = None,
        file_client_args: dict | None = None,
    ) -> None:
        self._check_options(backend_args, on_bad_image, bad_annotations, missing_classes)
        if file_client_args is not None:
            raise DataError(
                f"file_client_args={file_client_args}: write backend_args=dict(backend='local') instead"
            )
        if caption_prompt is not None and not return_classes:
            raise DataError("caption_prompt needs return_classes=True")
        self._metainfo = merge_metainfo(self.METAINFO, metainfo)
        self.data_root = data_root or ""
        self.ann_file = self._join(ann_file) if ann_file else ""
        prefixes = {"img_path": ""} if data_prefix is None else data_prefix
        self.proposal_file = self._join(proposal_file) if proposal_file else None
        self.data_prefix = {key: self._join(folder) for key, folder in prefixes.items()}
        self.filter_cfg = copy.deepcopy(filter_cfg)
        self.test_mode = test_mode
        self.return_classes = return_classes
        self.caption_prompt = caption_prompt
        self.bad_annotations = bad_annotations
        self.missing_classes = missing_classes
        self.seg_map_suffix = seg_map_suffix
        self.backend_args = backend_args
        self.serialize_data = serialize_data
        self.pipeline = Compose(pipeline)
        self.defects = DefectCounter(self.ann_file or type(self).__name__)
        self._refetch = BadImagePolicy(on_bad_image, max_refetch)
        self._indices = indices
        self._table: AnnotationTable | None = None
        self._proposals: SharedProposals | None = None
        if not lazy_init:
            self.full_init()

    # What the data set is.

    @property
    def metainfo(self) -> dict[str, Any]:
        """A copy of the facts about the data set: ``classes``, ``palette``, ..."""
        return copy.deepcopy(self._metainfo)

    @property
    def table(self) -> AnnotationTable:
        """The annotations, read on first use."""
        self.full_init()
        assert self._table is not None
        return self._table

    @property
    def max_refetch(self) -> int:
        """How often another sample is drawn where the pipeline returns None."""
        return self._refetch.max_refetch

    @property
    def data_list(self) -> Sequence[dict[str, Any]]:
        """The manual's list of image dicts; each dict is made when it is asked for."""
        return _InfoList(self)

    def __len__(self) -> int:
        return len(self.table)

    def full_init(self) -> None:
        """Read, check and filter the annotations; later calls do nothing.

        Raises:
            DataError: See the class.
        """
        if self._table is not None:
            return
        self._table = self.read_table()
        read = len(self._table)
        self.defects.report(self.bad_annotations)
        dropped = self._filter()
        if self._indices is not None:
            self._table = self._table.take(_positions(self._indices, len(self._table)))
        if read > LARGE:
            return_freed_memory()
        if not len(self._table):
            raise DataError(self._empty_message(read, dropped))
        try:
            self._check_company(self._table)
        except DataError:
            self._table = None  # asked again, it must fail again
            raise

    def _check_company(self, table: AnnotationTable) -> None:
        """What else the pipeline needs: masks that it asks for, proposals of every image."""
        check_masks(table, self.defects.source, self.pipeline, self.test_mode)
        if self.proposal_file is not None:
            self._proposals = load_proposals(self.proposal_file)
            paths = [table.paths.text(row) for row in range(len(table))]
            check_proposals(self._proposals, self.proposal_file, paths)

    # What subclasses and users override.

    def load_data_list(self) -> list[dict[str, Any]]:
        """All image dicts of the annotation file; override this for an own format."""
        infos: list[dict[str, Any]] = []
        for info in self._middle_format():
            parsed = self.parse_data_info(info)
            infos.extend(parsed if isinstance(parsed, list) else [parsed])
        return infos

    def parse_data_info(self, raw_data_info: dict[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Turn one entry of the file into one image dict (or several); joins the prefixes to the paths."""
        for key, folder in self.data_prefix.items():
            name = "img_path" if key == "img" else key
            if name in raw_data_info:
                raw_data_info[name] = os.path.join(folder, raw_data_info[name])  # noqa: PTH118
        return raw_data_info

    def filter_data(self) -> list[dict[str, Any]]:
        """Override this to choose images by an own rule: return those of ``self.data_list`` to keep."""
        return list(self.data_list)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Labels of all instances of an image."""
        first = self.table.first
        labels: list[int] = self.table.labels[first[idx] : first[idx + 1]].tolist()
        return labels

    # Access.

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """A fresh dict of one image: ``img_path, img_id, height, width, instances, sample_idx, ...``.

        Raises:
            IndexError: ``idx`` is outside the data set.
        """
        if not -len(self) <= idx < len(self):
            raise IndexError(f"image {idx} of a data set of {len(self)}")
        info = self.table.image(idx % len(self))
        info["sample_idx"] = idx % len(self)
        if self._proposals is not None:
            info["proposals"] = proposals_of_image(self._proposals, info["img_path"])
        if self.return_classes:
            info["text"] = self._metainfo.get("classes")
            info["caption_prompt"] = self.caption_prompt
            info["custom_entities"] = True
        return info

    def image_size(self, idx: int) -> tuple[int, int]:
        """Height and width of an image in pixels, (-1, -1) where the annotations do not tell."""
        height, width = self.table.sizes[idx].tolist()
        return height, width

    def image_sizes(self) -> np.ndarray:
        """int32 (I, 2): height and width of every image in pixels, -1 where the annotations do not tell."""
        return self.table.sizes

    def image_labels(self) -> Ragged:
        """Labels of all instances, one list an image, as `get_cat_ids` gives them."""
        if type(self).get_cat_ids is not BaseDetDataset.get_cat_ids:
            return labels_one_by_one(self)
        return Ragged(self.table.labels, self.table.first)

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on one image; None where a transform refuses it."""
        return self.pipeline(self.get_data_info(idx))

    def __getitem__(self, idx: int) -> Any:
        """The sample of an image, or another one where the pipeline refuses it (not in test mode).

        Raises:
            DataError: The image cannot be read, or too many samples in a row are refused.
        """
        return self._refetch.sample(self.prepare_data, idx, len(self), self.test_mode)

    def take_skipped(self) -> dict[str, tuple[int, str]]:
        """Images skipped since the last call: reason -> (how many, first message)."""
        return self._refetch.take_skipped()

    def get_subset_(self, indices: int | Sequence[int]) -> None:
        """Keep only some images: the first (negative: last) so many, or those at the given positions."""
        self._table = self.table.take(_positions(indices, len(self)))

    def get_subset(self, indices: int | Sequence[int]) -> BaseDetDataset:
        """A data set of some images, with the same pipeline."""
        subset = copy.copy(self)
        subset.get_subset_(indices)
        return subset

    # How it is read.

    def read_table(self) -> AnnotationTable:
        """All images of the annotation file, as the overridable methods give them, without unusable boxes."""
        builder = TableBuilder(self.defects)
        for info in self._infos():
            builder.add(info)
        classes = self._metainfo.get("classes")
        rules = BoxRules(self.MIN_BOX_SIDE, len(classes) if classes else None)
        return drop_unusable(builder.build(), self.defects, rules)

    def _infos(self) -> Iterator[dict[str, Any]]:
        if type(self).load_data_list is not BaseDetDataset.load_data_list:
            # The manual's own example declares `load_data_list(self, ann_file)`.
            parameters = inspect.signature(self.load_data_list).parameters.values()
            wants_file = any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
            yield from self.load_data_list(self.ann_file) if wants_file else self.load_data_list()  # type: ignore[call-arg]
            return
        for raw in self._middle_format():
            parsed = self.parse_data_info(raw)
            yield from parsed if isinstance(parsed, list) else [parsed]

    def _middle_format(self) -> Iterator[dict[str, Any]]:
        """Entries of the annotation file, with labels of the configured classes."""
        return read_middle_format(self.ann_file, self._metainfo, self.defects, self.missing_classes)

    def _filter(self) -> dict[str, int]:
        """Drop images by ``filter_cfg`` and by an overridden `filter_data`; how many for which reason."""
        assert self._table is not None
        dropped: dict[str, int] = {}
        rules = FilterRules.from_cfg(self.filter_cfg)
        if not self.test_mode:
            self._table, dropped = filter_images(self._table, rules)
        if type(self).filter_data is not BaseDetDataset.filter_data:
            before = len(self._table)
            builder = TableBuilder(self.defects)
            for info in self.filter_data():
                builder.add(info)
            self._table = builder.build()
            dropped["filter_data"] = before - len(self._table)
        return dropped

    def _empty_message(self, read: int, dropped: dict[str, int]) -> str:
        reasons = [f"{count} by {reason}" for reason, count in dropped.items() if count]
        bad = [self.defects.describe(code) for code in sorted(self.defects.counts)]
        text = f"{self.defects.source}: the data set is empty; {read} images were read"
        text += f", dropped were {', '.join(reasons)}" if reasons else ", none was dropped by filter_cfg"
        if self._indices is not None:
            text += f"; indices={self._indices!r} was applied last"
        return "\n  ".join([text, *bad])

    def _join(self, path: Any) -> Any:
        """The path below ``data_root``; absolute paths, URLs and what is no path are left alone."""
        if not isinstance(path, (str, os.PathLike)) or "://" in str(path):
            return path
        return os.path.join(self.data_root, path)  # noqa: PTH118

    @staticmethod
    def _check_options(backend_args: BackendArgs | None, *options: str) -> None:
        if backend_args and backend_args.get("backend") not in (None, "local", "disk"):
            raise DataError(f"backend_args={backend_args}: only local files are read (backend='local')")
        names = ("on_bad_image", "bad_annotations", "missing_classes")
        known = (("raise", "skip"), ("drop", "raise"), ("raise", "allow"))
        for name, option, choices in zip(names, options, known, strict=True):
            if option not in choices:
                raise DataError(f"{name}={option!r}, expected one of {', '.join(map(repr, choices))}")


class _InfoList(Sequence[dict[str, Any]]):
    """Image dicts made on demand, so that the list itself costs nothing."""

    def __init__(self, dataset: BaseDetDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        rows = range(len(self))[index]
        if isinstance(rows, range):
            return [self._dataset.get_data_info(row) for row in rows]
        return self._dataset.get_data_info(rows)


def _positions(indices: int | Sequence[int], length: int) -> np.ndarray:
    """Rows that ``indices`` means: the first or last so many, or a list of positions."""
    if isinstance(indices, (int, np.integer)):
        return np.arange(length)[: int(indices)] if indices >= 0 else np.arange(length)[int(indices) :]
    rows = np.asarray(indices, np.int64).reshape(-1)
    wrong = rows[(rows < -length) | (rows >= length)]
    if wrong.size:
        raise DataError(f"indices names image {int(wrong[0])}, but the data set has {length}")
    return rows % length if length else rows

"""Scope ``semi``: name -> where it lives. Sorted; imported when first built."""

from detcore.plugins import hookimpl
from detcore.registry.scopes import ComponentTable

DETCORE_API = 1


@hookimpl
def detcore_components(components: ComponentTable) -> None:
    """Name this package's components."""
    components.add("hooks", "MeanTeacherHook", "det_semi.mean_teacher:MeanTeacherHook")
    components.add("loops", "TeacherStudentValLoop", "det_semi.val_loop:TeacherStudentValLoop")
    components.add_many("models", {
        "MultiBranchDataPreprocessor": "det_semi.preprocess:MultiBranchDataPreprocessor",
        "SemiBaseDetector": "det_semi.semi_base:SemiBaseDetector",
        "SoftTeacher": "det_semi.soft_teacher:SoftTeacher",
    })
    components.add("transforms", "MultiBranch", "det_semi.branches:MultiBranch")

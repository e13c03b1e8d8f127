"""OpenMMLab 2.0's names, config dialect and checkpoint files for detcore."""

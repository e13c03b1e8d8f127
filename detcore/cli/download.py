"""``detcore download NAME...``: fetch weights by name."""

import click


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--dest", metavar="DIR", help="Copy weights and configs to DIR [weights stay in the cache].")
def command(names: tuple[str, ...], dest: str | None) -> None:
    """Fetch weights: of a published model (rtmdet-s, mmdet::retinanet/retinanet_r50_fpn_1x_coco),
    torchvision://resnet50, open-mmlab://detectron2/resnet50_caffe, or an http(s) address.

    With --dest the config of a published model is written beside its weights, as one file.
    """
    import logging

    from detcore.cli._download import download

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for name in names:
        for path in download(name, dest):
            click.echo(path)

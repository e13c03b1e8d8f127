"""``python -m detcore``: the command line, for launchers that start modules."""
from detcore.cli.main import main

main(prog_name="detcore")

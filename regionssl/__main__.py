"""``python -m regionssl``."""

from regionssl.cli import main

main()

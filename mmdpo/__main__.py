"""``python -m mmdpo`` is the ``mmdpo`` command."""

from mmdpo.cli import main

main()

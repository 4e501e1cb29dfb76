"""`python -m napari_swin2sr` is the command `napari-swin2sr`."""

import sys

from napari_swin2sr.cli.main import main

sys.exit(main())

"""`python -m diffaug_transforms.cli` is the command `diffaug`."""

import sys

from . import main

sys.exit(main())

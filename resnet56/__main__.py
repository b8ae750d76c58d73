"""``python -m resnet56``: the command line."""

import sys

from .cli import main

sys.exit(main())

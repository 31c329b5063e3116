"""Lets the tests here import `checkpoint_layouts` and `small`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

"""A module of tasks whose import takes the process down."""

import os

os._exit(3)

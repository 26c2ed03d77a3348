"""``python -m redis_botsession`` is ``botsession``."""

import sys

from .cli import main

sys.exit(main())

"""python -m counterseal_executor."""

import sys

from counterseal_executor.main import main

sys.exit(main())

"""`python -m counterseal_policy`."""

import sys

from counterseal_policy.main import main

sys.exit(main())

"""`python -m counterseal_audit`."""

import sys

from counterseal_audit.main import main

sys.exit(main())

"""`python -m counterseal_credentials`."""

import sys

from counterseal_credentials.main import main

sys.exit(main())

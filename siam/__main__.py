import sys

from siam.cli.command import main

sys.exit(main())

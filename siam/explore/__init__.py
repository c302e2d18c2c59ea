"""Look at images through their embeddings: neighbors, duplicates, outliers, clusters and a map.

The package is also the function of its name: `siam.explore(run, data)`. Importing one of its modules sets the
attribute `explore` of `siam` to the package, which would otherwise hide the function.
"""

import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Call `siam.explore.build.explore`."""
        from siam.explore.build import explore

        return explore(*args, **options)


sys.modules[__name__].__class__ = _Package

"""The last import of the server from which commands are forked: all it has imported is there to stay.

Otherwise each fork would search it for garbage, and thereby copy it: half a second.
"""

import gc

gc.collect()
gc.freeze()

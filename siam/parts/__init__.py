"""Building blocks of the network and its objectives."""

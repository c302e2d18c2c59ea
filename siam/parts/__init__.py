"""The parts that the two branches and their objectives are made of."""

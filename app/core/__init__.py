"""Which words do we use? Ids, geometry and errors; standard library and numpy only."""

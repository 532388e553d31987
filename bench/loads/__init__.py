"""The load generators, a file each: each is a `bench.scenario.Generator`."""

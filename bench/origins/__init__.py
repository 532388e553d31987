"""The servers behind the proxies, a file each: each makes a `bench.scenario.Origin`."""

"""Fuzzing: `make fuzz ARGS='http1_request --seconds 60'` (`python -m fuzz`).

A target takes any bytes, feeds them to a codec or a connection of `proxy`, or to what the CA reads, and asserts what
must hold for all of them: that nothing but the codec's own error escapes, that pieces of any size read the same, and,
where there is another reader (h11, h2, hpack), that what we let through it reads as we do. `targets` lists them.
`make test` runs each over its seeds and their mutations; atheris, which sees what code an input reaches, runs them for
as long as one likes.
"""

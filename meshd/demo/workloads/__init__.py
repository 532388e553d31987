"""The demo's programs: ordinary ones, that know of the mesh only what `meshd run` puts into their environment.

load ──► web ──► api ──► store
           HTTP    HTTP and plain TCP
"""

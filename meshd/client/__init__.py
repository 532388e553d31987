"""The agent's clients: where its socket is, and how one speaks to it."""

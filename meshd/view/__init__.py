"""How what the agent knows is shown to a person: figures, and tables of them. Pure: values in, text out."""

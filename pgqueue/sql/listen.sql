-- Be told of tasks on this connection. The channel is the schema's name, which fits an identifier.
LISTEN {schema}

"""What the daemon speaks about: records, parameters and replies as msgspec structs. No I/O.

A module per resource. Python names are snake_case, the wire's are camelCase (`rename="camel"`).
Every parameter carries a description: discovery, help and the reference are made from these.
"""

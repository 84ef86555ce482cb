"""The RPC methods, a module per resource: parameters in, one call to the right part, a result out. No SQL."""

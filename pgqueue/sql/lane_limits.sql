-- Bound the transaction that is open: a holder that vanished must not keep its rows. Parameters: names and values of settings,
-- arrays of one length.
SELECT set_config(setting.name, setting.value, true)
FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)

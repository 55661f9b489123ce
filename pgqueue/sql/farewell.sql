-- A runner leaves in order. Parameters: id.
DELETE FROM {schema}.runner WHERE id = %(id)s

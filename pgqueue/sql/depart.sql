-- Forget a runner that is gone and holds nothing any more. Parameters: id. Result: holds_nothing: whether nothing is left running
-- under its id.
WITH departed AS (
    DELETE FROM {schema}.runner
    WHERE id = %(id)s AND NOT EXISTS (SELECT FROM {schema}.task WHERE task.runner_id = runner.id AND task.status = 'running')
)
SELECT NOT EXISTS (SELECT FROM {schema}.task WHERE task.runner_id = %(id)s AND task.status = 'running') AS holds_nothing

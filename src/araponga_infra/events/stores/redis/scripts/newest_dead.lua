-- Returns the id of the last dead letter that there ever was, if any.
return redis.call('GET', root .. ':dead:last')

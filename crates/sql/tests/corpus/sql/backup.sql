BACKUP TO '/var/backups/weir-1'
BACKUP TO 's3://bucket/prefix' SETTINGS endpoint = 'http://127.0.0.1:9000', region = 'eu-central-1'
BACKUP STREAM s TO 'x'

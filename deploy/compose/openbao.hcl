# OpenBao: storage in PostgreSQL, TLS, unsealed by a key in a file, initialised by its own configuration: no root token
# is ever shown, and the one operator identity is an AppRole whose secret is in a file. For production: your own seal
# (KMS, HSM, transit), your own operator identities.
api_addr      = "https://openbao:8200"
cluster_addr  = "https://openbao:8201"
disable_mlock = true
ui            = false

storage "postgresql" {
  connection_url = "postgresql://openbao:@STORAGE_PASSWORD@@postgres:5432/openbao?sslmode=verify-full&sslrootcert=/run/files/ca.pem"
  max_parallel   = "24"
}

listener "tcp" {
  address         = "0.0.0.0:8200"
  tls_min_version = "tls13"
  tls_cert_file   = "/run/files/cert.pem"
  tls_key_file    = "/run/files/key.pem"
}

seal "static" {
  current_key_id = "compose-1"
  current_key    = "file:///run/files/seal-key"
}

# Audit devices are declared here and cannot be removed through the API.
audit "file" "main" {
  options = { file_path = "stdout" }
}

initialize "operator" {
  request "approle" {
    operation = "update"
    path      = "sys/auth/approle"
    data      = { type = "approle" }
  }
  request "policy" {
    operation = "update"
    path      = "sys/policies/acl/operator"
    data      = { policy = "path \"*\" { capabilities = [\"create\",\"read\",\"update\",\"patch\",\"delete\",\"list\",\"sudo\"] }" }
  }
  request "role" {
    operation = "update"
    path      = "auth/approle/role/operator"
    data      = { policies = "operator", token_period = "1h" }
  }
  request "role-id" {
    operation = "update"
    path      = "auth/approle/role/operator/role-id"
    data      = { role_id = "counterseal-operator" }
  }
  request "secret-id" {
    operation = "update"
    path      = "auth/approle/role/operator/custom-secret-id"
    data      = { secret_id = { eval_type = "string", eval_source = "file", path = "/run/files/operator-secret-id" } }
  }
}

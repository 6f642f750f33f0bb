#!/bin/sh
# Runs in the container: certificates for this run alone, git's gateway, nginx.
# SUBJECT: how the tests reach this container, as a subjectAltName, such as IP:127.0.0.1.
set -eu
cd /srv/tls

certificate() { # name, what it is (a section of certificates.conf), further words
    name=$1 extensions=$2
    shift 2
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 \
        -config /srv/certificates.conf -extensions "$extensions" -subj "/CN=$name" \
        -keyout "$name.key" -out "$name.pem" "$@"
}

certificate authority authority
certificate trusted here -CA authority.pem -CAkey authority.key
certificate unknown here
certificate misnamed elsewhere -CA authority.pem -CAkey authority.key
cp authority.pem /srv/files/
openssl x509 -in authority.pem -noout -hash >/srv/files/authority.hash

fcgiwrap -s unix:/srv/tls/git.socket &
until [ -S git.socket ]; do sleep 0.1; done
exec nginx -c /srv/nginx.conf -g 'daemon off;'

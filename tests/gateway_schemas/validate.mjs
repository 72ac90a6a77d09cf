// Checks Kubernetes objects against the schemas of their projects. Arguments: files with YAML documents.

import { readFileSync } from "node:fs";
import { SecurityPolicy } from "@kubernetes-models/envoy-gateway/gateway.envoyproxy.io/v1alpha1/SecurityPolicy";
import { IstioOperator } from "@kubernetes-models/istio/install.istio.io/v1alpha1/IstioOperator";
import { AuthorizationPolicy } from "@kubernetes-models/istio/security.istio.io/v1/AuthorizationPolicy";
import { parseAllDocuments } from "yaml";

const kinds = [SecurityPolicy, IstioOperator, AuthorizationPolicy];
for (const file of process.argv.slice(2)) {
  for (const document of parseAllDocuments(readFileSync(file, "utf8"))) {
    const object = document.toJS();
    const kind = kinds.find((kind) => kind.apiVersion === object.apiVersion && kind.kind === object.kind);
    new kind(object).validate();
    console.log("valid:", object.kind);
  }
}

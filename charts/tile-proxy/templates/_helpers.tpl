{{/* Name of the chart, as a label. */}}
{{- define "tile-proxy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Prefix of the names of all objects: the release, and the chart if the release does not say so. */}}
{{- define "tile-proxy.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* What selects the operator's pods; frozen, because a Deployment's selector cannot change. The
operator's own children have another name, so that no selector of ours ever meets them. */}}
{{- define "tile-proxy.selectorLabels" -}}
app.kubernetes.io/name: {{ include "tile-proxy.name" . }}-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tile-proxy.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "tile-proxy.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What selects the pods of `helm test`; the operator's Service and budget must not. */}}
{{- define "tile-proxy.testLabels" -}}
app.kubernetes.io/name: {{ include "tile-proxy.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tile-proxy.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "tile-proxy.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The whole image reference. */}}
{{- define "tile-proxy.image" -}}
{{- with .Values.image -}}
{{- with .registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- with .digest }}@{{ . }}{{ end }}
{{- end }}
{{- end }}

{{/* What the operator may do, and why. Used by the ClusterRole, or by one Role per namespace. */}}
{{- define "tile-proxy.rules" -}}
# The resource itself: read and watched, never written.
- apiGroups: [tiles.stella-ops.org]
  resources: [tileproxies]
  verbs: [get, list, watch]
# Its status, by server-side apply.
- apiGroups: [tiles.stella-ops.org]
  resources: [tileproxies/status]
  verbs: [patch]
# Children set blockOwnerDeletion on the TileProxy; where that admission plugin runs, it asks for this.
- apiGroups: [tiles.stella-ops.org]
  resources: [tileproxies/finalizers]
  verbs: [update]
# Replicas. Applied by server-side apply, which needs create and patch; swept after a scale-down.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
# The proxy's configuration, and what pods run as. Both go with their TileProxy.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts]
  verbs: [get, list, watch, create, patch]
# Where clients connect, and a stable name for each replica; swept after a scale-down.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# Volumes are created, grown and handed over. Deleted only for spec.cache.retention.whenScaled: Delete,
# by uid and version; where nobody uses it, rbac.deleteVolumes takes this right away.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch{{ if .Values.rbac.deleteVolumes }}, delete{{ end }}]
# The admin token. Created blindly and never read, so that this role shows nobody a Secret.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
# What `kubectl describe tp` tells of the past; a repeat is counted in the Event there is.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# The sync; deleted when it is switched off.
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch, create, patch, delete]
# Who may reach the replicas, with spec.networkPolicy; deleted when it is switched off.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# How Prometheus finds their metrics, with spec.monitoring; deleted when it is switched off. The kind
# need not be there.
- apiGroups: [monitoring.coreos.com]
  resources: [servicemonitors]
  verbs: [get, list, watch, create, patch, delete]
# With more than one replica; deleted when one is left.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
